"""A config becomes objects; below this room nobody knows Hydra or OmegaConf.

    assemble.py      the order: data, spec, preprocess, model, task
    session.py       all that is built, in one object
    spec.py          facts about the data, and `${spec...}` filled in
    advice.py        what would fit, where something doesn't
    transforms.py    section `transforms`
    loaders.py       section `loader`
    loss.py          group `loss`
    finetuning.py    section `finetune`
    rehearsal.py     two samples go through everything
    summary.py       the layers, their sizes and operations
    trainer.py       optimizer, schedule and trainer

Imports: training, tasks, data, models, loggers, runs, config, ground.
"""
