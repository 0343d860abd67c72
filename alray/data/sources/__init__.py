"""Where images come from: one file per kind of source, all of them in `alray.data.sources.kinds`.

Nothing is imported here: `alray select` uses the names of columns alone, and needs no reader of images.
"""
