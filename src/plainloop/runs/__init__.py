"""A run directory: what lies in it, and how it is written so that no crash can spoil it.

    directory.py      its paths and its lock; create it, record in it, read it back
    finding.py        the run that RUN names
    survey.py         every run below a folder
    environment.py    what it was made with
    checkpoint.py     what it must remember
    atomic.py         files that are whole or not there
    belonging.py      whether what lies in it is its own
    files.py          what is read of a run that may be a stranger's

Imports: config, ground.
"""
