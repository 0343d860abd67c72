"""The oracle `files`: the batch is written for people, who give their answers with `alray label`."""

from __future__ import annotations

import numpy as np

from alray.data.catalog import Catalog
from alray.data.oracle import Answers, Requests, Status
from alray.labeling import sheet, state
from alray.labeling.kinds import COLUMN, advice_on
from alray.labeling.ledger import requests_table
from alray.rundir import RunDir


class LabelFiles:
    """Writes each batch as CSV, JSON lines and contact sheets, and answers nothing by itself.

    `alray label RUN FILE` puts the answers into the run's directory, where the run finds them before it asks again.
    """

    def __init__(self, run: RunDir, catalog: Catalog, gives: Status) -> None:
        self.run, self.catalog, self.gives = run, catalog, gives

    def answer(self, requests: Requests) -> Answers:
        """Write the files of the batch unless they are there. Every answer is "not yet"."""
        place = self.run.batch_files(requests.batch)
        if not place.has(sheet.CSV):
            classes = state.classes(self.run)
            table = requests_table(requests, classes, [requests.batch] * len(requests))
            title = f"{self.run.uri.rpartition('/')[2]}, {requests.batch}"
            sheet.write(place, table, self.catalog, classes, title, COLUMN[self.gives])
        sheets = sheet.SHEETS if self.catalog.source.decoded else ""  # embeddings cannot be looked at
        do, give = advice_on(self.gives, sheet.CSV, sheets)
        note = f"The batch is in {place.uri}: {do}. Then: alray label {self.run.uri} {give}"
        nothing = np.full(len(requests), -1, np.int32)
        return Answers(np.full(len(requests), Status.NOT_YET, np.uint8), nothing, note=note)
