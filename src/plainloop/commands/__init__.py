"""What a door does: one file for each command, and what surrounds them.

    cli.py            a door: Hydra composes, what is mistyped is answered, a function is called
    startup.py        what makes that quick
    train.py          a new run, one that is continued, one that is extended
    resume.py         what it means to go on from a run
    fingerprint.py    whose a checkpoint is
    run.py            a run, rebuilt from its directory
    evaluate.py       a run is measured
    predict.py        what it has learned, for new inputs
    runs.py           all runs in a table, or some beside each other
    export.py         a run as one file; measure_export.py: that measured like the run
    sweep.py          many runs, and a ranked table
    signals.py, failures.py, profiler.py    what may come in between

`cli.py` and `sweep.py` answer before torch is imported; so this front hands nothing on.

Imports: reports, assembly, training, tasks, data, models, loggers, runs, config, ground.
"""
