"""The kinds of data: a file for each, with a factory of the same name, which a config names as `plainloop.data.NAME`.
A kind that nobody needs is deleted with its file and its config.

    arrays.py, points.py             what is in memory already (named_arrays.py reads .npz, .npy, safetensors)
    images.py, audio.py              files in folders (files.py finds them)
    table.py                         rows and columns (table_encoder.py: what becomes of them on the device)
    text.py, charseq.py              texts in rows, and running text
    series.py                        rows in the order of time
    json_lines.py                    records too many for the memory (record.py: one of them; shards.py: their files)
    torchvision_set.py, fake.py      torchvision's sets, and invented images

What several share: checks.py (what a file must hold), frames.py (how a table is read; source.py: its file; dialect.py:
how that is written), numerals.py (words that are numbers), columns.py (what columns hold), times.py (dates and times in
words), pictures.py (how a picture becomes a tensor), vocabulary.py (how words become numbers), new_files.py and
new_arrays.py (what is new: to predict from, to measure, to export for).

Imports: data, ground.
"""
