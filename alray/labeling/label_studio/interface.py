"""Labeling interfaces of Label Studio: the XML that says what people see and choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from alray.data.oracle import OracleError
from alray.labeling.deliveries import NEW_CLASS, UNUSABLE
from alray.reasons import first_of

IMAGE = "image"  # the field of a task's data that holds the address of the image
_BUTTONS = 30  # with more classes there is a list with a search field instead of a button for each
_LABEL = "label"
_DRAWN = "BrushLabels", "PolygonLabels"


@dataclass(frozen=True)
class Interface:
    """What alray needs to know of a labeling interface. control: name of the control in which people choose a class,
    empty if they draw masks; image: name of the image it belongs to; classes: its choices; xml: the whole interface."""

    control: str
    image: str
    classes: tuple[str, ...]
    xml: str

    def prediction(self, name: str) -> dict[str, object]:
        """A class as a result of this interface."""
        return {
            "from_name": self.control, "to_name": self.image, "type": "choices", "value": {"choices": [name]},
        }  # fmt: skip


def for_classes(classes: Sequence[str], new_classes: bool) -> str:
    """The interface of a project that alray makes: the class of the image, "unusable", and the image.

    new_classes: people may write the name of a class that is not among the choices.
    """
    view = ElementTree.Element("View")
    layout = {"layout": "select"} if len(classes) > _BUTTONS else {"showInline": "true"}
    choices = ElementTree.SubElement(view, "Choices", {"name": _LABEL, "toName": IMAGE, "choice": "single", **layout})
    for name in classes:
        ElementTree.SubElement(choices, "Choice", value=name)
    if new_classes:
        ElementTree.SubElement(
            view, "TextArea", name=NEW_CLASS, toName=IMAGE, maxSubmissions="1", editable="true",
            placeholder="a class that is not among the choices",
        )  # fmt: skip
    return _with_image(view)


def for_masks(classes: Sequence[str], new_classes: bool) -> str:
    """The interface for masks: a brush and polygons for every class, "unusable", and the image. new_classes is without
    meaning: the classes of masks are declared."""
    view = ElementTree.Element("View")
    for kind in _DRAWN:
        labels = ElementTree.SubElement(view, kind, name=kind.removesuffix("Labels").lower(), toName=IMAGE)
        for name in classes:
            ElementTree.SubElement(labels, "Label", value=name)
    return _with_image(view)


def _with_image(view: ElementTree.Element) -> str:
    """The interface with "unusable" and the image below the controls, which a large image would push out of sight."""
    no_image = ElementTree.SubElement(view, "Choices", name=UNUSABLE, toName=IMAGE, choice="single", showInline="true")
    ElementTree.SubElement(no_image, "Choice", value="unusable")
    ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
    return ElementTree.tostring(view, "unicode")


def fitting(xml: str, classes: Sequence[str], new_classes: bool, where: str) -> Interface:
    """Read the interface of a project, and add classes that it lacks if new classes may come.

    where: the project, for messages. Raises OracleError if people cannot give every class of the run there, or could
    give others.
    """
    view, controls = _controls(xml, ("Choices",), where)
    best = max(controls, key=lambda tag: len(set(_names(tag)) & set(classes)))
    have, wrong = _names(best), ""
    missing, other = _differences(have, classes)
    if best.get("choice", "single") not in ("single", "single-radio"):
        wrong = f'choice="{best.get("choice")}" instead of one choice per image'
    elif missing and not new_classes:
        wrong = f"no choice for {_few(missing)}"
    elif other and not new_classes:
        wrong = f"choices that are no class of the run, {_few(other)}"
    if wrong:
        raise _misfit(where, classes, best, wrong)
    for name in missing:
        ElementTree.SubElement(best, "Choice", value=name)
    return Interface(
        best.get("name", ""), best.get("toName", ""), (*have, *missing),
        ElementTree.tostring(view, "unicode") if missing else xml,
    )  # fmt: skip


def fitting_masks(xml: str, classes: Sequence[str], new_classes: bool, where: str) -> Interface:
    """Read the interface of a project in which people draw. Each of its brushes and polygons has to have all classes.
    Raises OracleError as `fitting` does."""
    _, controls = _controls(xml, _DRAWN, where)
    for control in controls:
        missing, other = _differences(_names(control), classes)
        if missing or other:
            wrong = f"no label for {_few(missing)}" if missing else f"labels that are no class, {_few(other)}"
            raise _misfit(where, classes, control, wrong)
    return Interface("", controls[0].get("toName", ""), tuple(classes), xml)


def _controls(xml: str, kinds: Sequence[str], where: str) -> tuple[ElementTree.Element, list[ElementTree.Element]]:
    """An interface, and its controls of these kinds for the image, of which there has to be one."""
    try:
        view = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise OracleError(f"{where}: its labeling interface is not XML: {error}") from None
    images = {tag.get("name") for tag in view.iter("Image") if tag.get("value") == f"${IMAGE}"}
    controls = [tag for kind in kinds for tag in view.iter(kind) if tag.get("toName") in images]
    controls = [tag for tag in controls if tag.get("name") != UNUSABLE]
    if not controls:
        raise OracleError(
            f'{where}: expected a labeling interface with <Image value="${IMAGE}"> and '
            f"{' or '.join(f'<{kind}>' for kind in kinds)} for it, got {_tags(view)}; name another project in "
            "labels.project, or none, so that one is made"
        )
    return view, controls


def _differences(have: Sequence[str], classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The classes that a control lacks, and what it has besides."""
    return [name for name in classes if name not in have], [name for name in have if name not in set(classes)]


def _misfit(where: str, classes: Sequence[str], control: ElementTree.Element, wrong: str) -> OracleError:
    return OracleError(
        f"{where}: its labeling interface does not fit the classes {_few(classes)}: the control "
        f"{control.get('name')!r} has {wrong}; correct it there, or name another project in labels.project"
    )


def _names(control: ElementTree.Element) -> list[str]:
    """What the results of a control hold for each choice or label."""
    return [tag.get("alias") or tag.get("value") or "" for tag in control.iter() if tag.tag in ("Choice", "Label")]


def _tags(view: ElementTree.Element) -> str:
    return ", ".join(dict.fromkeys(f"<{tag.tag}>" for tag in view.iter() if tag is not view)) or "an empty one"


def _few(names: Sequence[str]) -> str:
    return first_of(list(map(repr, names)))
