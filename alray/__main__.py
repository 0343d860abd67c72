"""`python -m alray` is the command `alray`."""

from alray.cli import main

main()
