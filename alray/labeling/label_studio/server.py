"""A Label Studio server, through its SDK. Its errors become sentences; the token is in none of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alray.credentials import redacted
from alray.data.oracle import OracleError
from alray.reasons import why

TOKEN = "LABEL_STUDIO_API_KEY"  # environment variable with the token of a user
ANNOTATED, CANCELLED = "total_annotations", "cancelled_annotations"  # counts of a task
MODEL = "alray"  # the model version of predictions
_INSTALL = "pip install 'alray[label-studio]'"
_PAGE = 500
_PUSHED = 100  # tasks of one request
_PUSHED_BYTES = 16 * 2**20  # of one request with embedded images
_SECONDS = 120


class AwayError(OracleError):
    """The server does not answer now. It may answer later."""


@dataclass(frozen=True)
class Project:
    """A project: its number, title and labeling interface, and how many people label each image."""

    id: int
    title: str
    interface: str
    annotations: int


class Server:
    """A connection to a server. url: its address. Raises OracleError if the SDK or the token is missing."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        require()
        from label_studio_sdk import LabelStudio

        with self._told():
            self._sdk = LabelStudio(base_url=f"{self.url}/", api_key=os.environ[TOKEN], timeout=_SECONDS)

    def link(self, project: Project) -> str:
        """The page of a project, for people."""
        return f"{self.url}/projects/{project.id}/data"

    def project(self, number: int) -> Project:
        """A project by its number. Raises OracleError if it does not exist."""
        with self._told(f"the project {number} does not exist there (any more), or this user may not see it"):
            return _project(self._sdk.projects.get(number))

    def titled(self, title: str) -> Project | None:
        """The project with exactly this title; None if there is none. Raises OracleError if there are several."""
        with self._told():
            found = [one for one in self._sdk.projects.list(title=title, page_size=100) if one.title == title]
        if len(found) > 1:
            numbers = ", ".join(str(one.id) for one in found)
            raise OracleError(
                f"{self.url}: {len(found)} projects have the title {title!r}; give the number of one of them in "
                f"labels.project: {numbers}"
            )
        return self.project(found[0].id) if found else None

    def create(self, title: str, interface: str, annotations: int) -> Project:
        """Make a project."""
        with self._told():
            made = self._sdk.projects.create(
                title=title, label_config=interface, maximum_annotations=annotations, show_skip_button=True,
                enable_empty_annotation=False, show_collab_predictions=True, description="Images that alray asks for",
            )  # fmt: skip
            return self.project(made.id)

    def change(self, project: Project, **fields: Any) -> Project:
        """Change fields of a project."""
        with self._told():
            self._sdk.projects.update(project.id, **fields)
        return self.project(project.id)

    def count(self, project: Project, batch: str) -> int:
        """How many tasks of a batch the project has."""
        with self._told():
            pager = self._sdk.tasks.list(project=project.id, query=_query(batch), fields="task_only", page_size=1)
            return int(pager.response.total)

    def tasks(self, project: Project, batch: str, having: str = "") -> list[dict[str, Any]]:
        """The tasks of a batch as in an export: id, data, annotations. having: only those with a count above zero,
        ANNOTATED or CANCELLED; otherwise they come without their annotations."""
        from label_studio_sdk.core.jsonable_encoder import jsonable_encoder

        fields: Any = "all" if having else "task_only"
        with self._told():
            found = self._sdk.tasks.list(
                project=project.id, query=_query(batch, having), fields=fields, page_size=_PAGE, resolve_uri=False
            )
            return [
                {
                    "id": task.id, "data": task.data, "annotations": jsonable_encoder(task.annotations or []),
                    "answered": bool(task.total_annotations or task.cancelled_annotations),
                }
                for task in found
            ]  # fmt: skip

    def push(self, project: Project, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Add tasks. A request is never repeated, because the server may have done it: look for the tasks instead."""
        for part in parts(tasks):
            with self._told():
                self._sdk.projects.import_tasks(
                    project.id, request=part, request_options={"max_retries": 0, "timeout_in_seconds": _SECONDS}
                )

    def update(self, task: int, data: Mapping[str, Any]) -> None:
        """Replace the data of a task, by its number."""
        with self._told():
            self._sdk.tasks.update(str(task), data=dict(data))

    def delete(self, task: int) -> None:
        """Delete a task by its number."""
        with self._told():
            self._sdk.tasks.delete(str(task))

    def serve(self, project: Project, folder: str) -> None:
        """Let the project show files of a folder of the server, which must be below its document root."""
        with self._told():
            have = self._sdk.import_storage.local.list(project=project.id)
            if folder not in [storage.path for storage in have]:
                self._sdk.import_storage.local.create(
                    project=project.id, path=folder, title="images of alray", use_blob_urls=True
                )

    @contextmanager
    def _told(self, gone: str = "a task or project does not exist there (any more)") -> Iterator[None]:
        """Turn errors of the SDK into OracleError. gone: what an answer "not found" means."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            yield
        except httpx.TransportError as error:
            raise AwayError(
                f"{self.url}: Label Studio does not answer ({why(error)}); is it running, and is labels.url right?"
            ) from None
        except httpx.InvalidURL as error:
            raise OracleError(f"labels.url: expected the address of Label Studio, got {self.url!r}: {error}") from None
        except ApiError as error:
            raise self._error(error.status_code or 0, error.body, gone) from None

    def _error(self, status: int, body: Any, gone: str) -> OracleError:
        if status == 401:
            return OracleError(
                f"{self.url}: Label Studio refused the token in {TOKEN}; copy a token of a user from its page "
                "Account & Settings (a personal access token, or a legacy token where the server allows these)"
            )
        if status == 404:
            return OracleError(f"{self.url}: {gone}")
        said = body if isinstance(body, dict) else {"detail": str(body)[:200]}
        details = [str(said[name]) for name in ("detail", "validation_errors") if said.get(name)]
        text = redacted(f"{self.url}: Label Studio answered with status {status}: {'; '.join(details)[:1000]}")
        if status == 403:
            return OracleError(f"{text}; the user of the token in {TOKEN} may not do this")
        return AwayError(text) if status >= 500 or status == 429 else OracleError(text)


def require() -> None:
    """Raise OracleError unless the SDK is installed and a token is set."""
    try:
        import label_studio_sdk  # noqa: F401
    except ImportError as error:
        raise OracleError(f"labels.oracle label_studio needs label-studio-sdk ({error}): {_INSTALL}") from None
    if not os.environ.get(TOKEN, "").strip():
        raise OracleError(
            f"labels.oracle label_studio: expected the token of a user of Label Studio in the environment variable "
            f"{TOKEN}, got none"
        )


def parts(tasks: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """The tasks in parts that a server takes in one request."""
    part: list[Any] = []
    size = 0
    for task in tasks:
        length = len(str(task["data"]))
        if part and (len(part) == _PUSHED or size + length > _PUSHED_BYTES):
            yield part
            part, size = [], 0
        part.append(dict(task))
        size += length
    if part:
        yield part


def _project(found: Any) -> Project:
    return Project(int(found.id), str(found.title), str(found.label_config), int(found.maximum_annotations or 1))


def _query(batch: str, having: str = "") -> str:
    """A filter of the Data Manager: the tasks of a batch, in the order of their numbers."""
    items = [{"filter": "filter:tasks:data.batch", "operator": "equal", "type": "String", "value": batch}]
    if having:
        items.append({"filter": f"filter:tasks:{having}", "operator": "greater", "type": "Number", "value": "0"})
    return json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})
