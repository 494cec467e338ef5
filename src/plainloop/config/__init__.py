"""Keys, options, and what is typed: everything that is known before torch is imported.

    keys.py          how a key is declared
    sections.py      every key of our own, section by section, and each section's rules
    schema.py        what each command takes: the sections, and the groups of configs/
    options.py       the options of each group: the folder configs/
    rules.py         what can be known wrong from the configuration alone
    complaints.py    what is typed wrong, in our words
    words.py         the words of a command that composes nothing
    references.py    `${...}`: what a run's own config may refer to
    compose.py       from what was typed to a composed config
    changes.py       from a run's own config, and what was typed, to another

Imports: ground.
"""
