"""The oracle `files`: the batch is written for people, who give their answers with `alray label`."""

from __future__ import annotations

import numpy as np

from alray.data.catalog import Catalog
from alray.data.oracle import Answers, Requests, Status
from alray.labeling import sheet, state
from alray.labeling.ledger import requests_table
from alray.rundir import RunDir


class LabelFiles:
    """Writes each batch as CSV, JSON lines and contact sheets, and answers nothing by itself.

    `alray label RUN FILE` puts the answers into the run's directory, where the run finds them before it asks again.
    """

    def __init__(self, run: RunDir, catalog: Catalog) -> None:
        self.run, self.catalog = run, catalog

    def answer(self, requests: Requests) -> Answers:
        """Write the files of the batch unless they are there. Every answer is "not yet"."""
        place = self.run.batch_files(requests.batch)
        if not place.has(sheet.CSV):
            classes = state.classes(self.run)
            table = requests_table(requests, classes, [requests.batch] * len(requests))
            title = f"{self.run.uri.rpartition('/')[2]}, {requests.batch}"
            sheet.write(place, table, self.catalog, classes, title)
        note = (
            f"The batch is in {place.uri}: fill in the labels in {sheet.CSV}, or open {sheet.SHEETS} in a browser and "
            f"save its CSV. Then: alray label {self.run.uri} FILE"
        )
        nothing = np.full(len(requests), -1, np.int32)
        return Answers(np.full(len(requests), Status.NOT_YET, np.uint8), nothing, note=note)
