"""Keys, options, and what is typed: everything that is known before torch is imported.

    schema.py        every key of our own: its type, range, default and help
    options.py       the options of each group: the folder configs/
    rules.py         what can be known wrong from the configuration alone
    compose.py       from what was typed to a composed config
    complaints.py    what is typed wrong, in our words

Imports: ground.
"""
