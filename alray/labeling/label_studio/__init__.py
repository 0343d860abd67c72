"""The oracle `label_studio`: people label in Label Studio.

`oracle` pushes each batch as tasks and reads the annotations, `server` talks to the server, `interface` makes and reads
labeling interfaces, `images` tells a browser where an image is, `agreement` settles several annotators, and `regions`
turns brushes and polygons into masks.
"""
