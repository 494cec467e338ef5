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
    axes.py        from values to places, and the round numbers beside an axis
    svg.py         curves for a page
    plot.py        curves for a terminal
    overview.py    the table of all runs
    comparison.py  some runs beside each other
    runs_page.py   these as a page

Imports: assembly, training, tasks, data, models, loggers, runs, config, ground.
"""
