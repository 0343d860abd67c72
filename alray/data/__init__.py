"""From a source of images to a catalog, and from catalog rows to pixels."""
