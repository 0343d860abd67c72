"""Why an image of a finished run was picked, or what was picked instead."""
