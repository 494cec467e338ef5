"""A run directory: what lies in it, and how it is written so that no crash can spoil it.

    directory.py      its paths; create it, record it, find it, read it back
    atomic.py         files that are whole or not there
    checkpoint.py     what a run must remember
    environment.py    what it was made with

Imports: config, ground.
"""
