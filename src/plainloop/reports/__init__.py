"""What is shown of a run.

    terminal.py    the lines before and after the training
    classes.py     what the sizes of the classes say
    evaluation.py  what an evaluation shows: intervals, tables, samples
    report.py      the run on one page, report.html
    page.py        a page in one file: its frame, its style, its script
    samples.py     a sample as a person sees it
    tables.py      rows and columns
    rows.py        rows that are written one by one
    pictures.py    which pictures a run gets
    figures.py     how they are drawn
    svg.py         curves for a page

Imports: assembly, training, tasks, data, models, loggers, runs, config, ground.
"""
