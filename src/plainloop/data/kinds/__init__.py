"""The kinds of data: a file for each, with a factory of the same name, which a config names as `plainloop.data.NAME`.
A kind that nobody needs is deleted with its file and its config.

    arrays.py, points.py             what is in memory already (named_arrays.py reads .npz, .npy, safetensors)
    images.py, audio.py              files in folders (files.py finds them)
    table.py                         rows and columns (frames.py reads them, columns.py looks at what they hold)
    text.py, charseq.py              texts in rows, and running text
    series.py                        rows in the order of time
    json_lines.py                    records too many for the memory
    torchvision_set.py, fake.py      torchvision's sets, and invented images
    checks.py                        what several of them ask of a user's file

Imports: data, ground.
"""
