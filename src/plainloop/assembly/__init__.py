"""A config becomes objects; below this room nobody knows Hydra or OmegaConf.

    assemble.py      the order: data, spec, preprocess, model, task
    session.py       all that is built, in one object
    spec.py          facts about the data, and `${spec...}` filled in
    advice.py        what would fit, where something doesn't
    loaders.py       section `loader`
    transforms.py, preprocess.py, augment.py    section `transforms`: of a sample, of every batch, of training batches
    loss.py          group `loss`
    finetuning.py    section `finetune`
    serving.py       a run as it answers, without its data
    deployable.py    that as one module from raw inputs to named outputs, and as a graph; onnx_file.py: as a file;
                     quiet.py: what libraries print meanwhile
    rehearsal.py     two samples go through everything
    summary.py       the layers, their sizes and operations
    trainer.py       optimizer, schedule and trainer

Imports: training, tasks, data, models, loggers, runs, config, ground.
"""
