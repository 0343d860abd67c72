"""The packages of the wheel: alray's own, and the job files in jobs/ as the package alray.jobs."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["alray", "alray.*"]), "alray.jobs"], package_dir={"alray.jobs": "jobs"})
