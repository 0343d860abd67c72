"""Answers of people: every file format is read, and every line is checked against what was asked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from alray.data.oracle import Status
from alray.labeling.check import Asked, Rules, check
from alray.labeling.deliveries import Delivered, LabelError, read
from alray.labeling.ledger import Ledger
from alray.store import Store

TRIPLES = [("a/1.png", Status.LABEL, "cat"), ("a/2.png", Status.SKIP, ""), ("a/3.png", Status.UNUSABLE, "")]


def written(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def triples(delivered):
    return [(line.key, line.status, line.label) for line in delivered]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "key,label,status\na/1.png,cat,\na/2.png,,skip\na/3.png,,unusable\na/4.png,,\n"),
        ("l.csv", "\ufeffKey ; Label;STATUS\r\na/1.png; cat ;label\r\na/2.png;;Skip\r\n\r\na/3.png;;unusable\r\n"),
        ("l.tsv", "status\tfilename\tclass\n\ta/1.png\tcat\nskip\ta/2.png\t\nunusable\ta/3.png\t\n"),
        ("l.csv", 'key,label,status\n"a/1.png","cat",""\n"a/2.png","",skip\na/3.png,,unusable\n'),
        (
            "l.jsonl",
            '{"key": "a/1.png", "label": "cat"}\n\n{"image": "a/2.png", "status": "skip"}\n'
            '{"key": "a/3.png", "label": null, "status": "unusable"}\n{"key": "a/4.png", "label": null}\n',
        ),
    ],
)
def test_tables_and_lines_give_the_same_answers(tmp_path, name, text):
    assert triples(read(written(tmp_path, name, text))) == TRIPLES


def test_an_export_of_label_studio_gives_choices_skips_and_annotators(tmp_path):
    def choice(name):
        return {"type": "choices", "from_name": "label", "to_name": "image", "value": {"choices": [name]}}

    tasks = [
        {"id": 1, "data": {"key": "a/1.png"}, "annotations": [{"result": [choice("cat")], "completed_by": 4}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=a/2%201.png"},
         "annotations": [{"result": [], "was_cancelled": True, "completed_by": 5}]},
        {"id": 3, "data": {"image": "s3://b/c.png"}, "annotations": []},
    ]  # fmt: skip
    found = read(written(tmp_path, "e.json", json.dumps(tasks)))
    assert triples(found) == [("a/1.png", Status.LABEL, "cat"), ("a/2 1.png", Status.SKIP, "")]
    assert [line.annotator for line in found] == ["4", "5"]
    short = [{"image": "a/1.png", "choice": "cat", "id": 1, "annotator": 2}]
    assert triples(read(written(tmp_path, "m.json", json.dumps(short)))) == TRIPLES[:1]


def test_exports_of_coco_and_cvat_and_a_folder_give_the_same_answer(tmp_path):
    coco = {
        "images": [{"id": 7, "file_name": "a/1.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3}],
    }
    cvat = '<annotations><image id="0" name="a/1.png" width="2" height="2"><tag label="cat"/></image></annotations>'
    folder = tmp_path / "sorted" / "cat" / "a"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"")
    for path in (written(tmp_path, "c.json", json.dumps(coco)), written(tmp_path, "c.xml", cvat), tmp_path / "sorted"):
        assert triples(read(str(path))) == TRIPLES[:1]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.csv", "name,label\nx,cat\n", "got name, label; the first line of a table names its columns"),
        ("l.csv", "key,note\nx,cat\n", "l.csv:1: expected a column label"),
        ("l.csv", "key,label,label\nx,cat,dog\n", "'label' more than once"),
        ("l.csv", "key,label\nx,cat,dog\n", "l.csv:2: expected 2 cells, got 3"),
        ("l.csv", "key,label,status\nx,cat,skip\n", "l.csv:2: expected no label beside the status skip"),
        ("l.csv", "key,label,status\nx,,later\n", "expected the status label, skip or unusable, got 'later'"),
        ("l.csv", "key,label\n,cat\n", "l.csv:2: expected the key of an image"),
        ("l.csv", "", "an empty file"),
        ("l.jsonl", '{"key": "x", "label": "cat"}\n{"key": \n', "l.jsonl:2: expected a JSON object"),
        ("l.jsonl", '{"key": "x", "label": ["cat"]}\n', "l.jsonl:1: expected text as label"),
        ("e.json", '{"tasks": []}', "expected an export of Label Studio"),
        ("e.json", "[\n", "e.json:2: expected JSON"),
        ("e.xml", "<annotations>", "e.xml:1: expected CVAT's XML"),
        ("e.docx", "x", "expected a folder or a file that ends with .csv"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, name, text, said):
    try:
        refused = check(read(written(tmp_path, name, text)), ASKED, RULES).refused
    except LabelError as error:
        refused = [str(error)]
    assert any(said in line for line in refused)
    assert all("\n" not in line for line in refused)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_text_in_unicode_with_a_byte_order_mark_is_read_as_excel_saves_it(tmp_path, encoding):
    text = "\ufeffkey\tlabel\tstatus\r\na/1.png\tcaf\u00e9\t\r\na/2.png\t\tskip\r\n"
    found = read(written(tmp_path, "l.txt", text, encoding))
    assert triples(found) == [("a/1.png", Status.LABEL, "caf\u00e9"), ("a/2.png", Status.SKIP, "")]


def test_half_a_character_of_utf16_is_told_as_such(tmp_path):
    (tmp_path / "cut.csv").write_bytes("\ufeffkey,label\nx,cat\n".encode("utf-16-le")[:-1])
    with pytest.raises(LabelError, match=r"cut\.csv: expected text in UTF-16, as its first bytes say"):
        read(str(tmp_path / "cut.csv"))


def test_a_file_in_another_encoding_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(LabelError, match=r"l\.csv: line 2: expected text in UTF-8, got .*iconv -f LATIN1"):
        read(written(tmp_path, "l.csv", "key,label\nx,caf\u00e9\n", "latin-1"))
    with pytest.raises(LabelError, match="no such file"):
        read(str(tmp_path / "away.csv"))


def line(key, label="cat", status=Status.LABEL, annotator="", at=2):
    return Delivered(f"l.csv:{at}", key, status, label if status == Status.LABEL else "", annotator)


ASKED = Asked(["a/1.png", "b/1.png", "a/2.png"], ["/r/a/1.png", "/r/b/1.png", "s3://r/a/2.png"], {})
RULES = Rules(["cat", "Dog", "caf\u00e9"])


@pytest.mark.parametrize(
    ("key", "found"),
    [("a/1.png", "a/1.png"), ("/r/b/1.png", "b/1.png"), ("2.png", "a/2.png"), ("x/a/2.png", "a/2.png"),
     ("a\\2.png", "a/2.png"), ("./2.png", None), ("1.png", None), ("c/1.png", None), ("3.png", None)],
)  # fmt: skip
def test_an_image_is_found_by_key_uri_or_the_end_of_its_path_when_only_one_fits(key, found):
    result = check([line(key)], ASKED, RULES)
    assert [taken.key for taken in result.taken] == ([] if found is None else [found])
    assert len(result.refused) == (found is None)


def test_keys_in_decomposed_unicode_as_macos_writes_them_mean_the_composed_ones_where_one_fits():
    composed, decomposed = "B\u00e4r/\u00fc.png", "Ba\u0308r/u\u0308.png"
    known = {"\u00e9.png": "\u00e9.png", "o\u0308.png": "o\u0308.png"}
    for there, given in ((composed, decomposed), (decomposed, composed)):
        asked = Asked([there, "a.png"], ["/r/" + there, "/r/a.png"], {}, known.get)
        for name in (given, given.rpartition("/")[2], given.replace("/", "\\"), "/r/" + given):
            assert [taken.key for taken in check([line(name)], asked, RULES).taken] == [there]
        for name, key in (("e\u0301.png", "\u00e9.png"), ("\u00f6.png", "o\u0308.png")):
            assert "is not an image that is asked for now" in check([line(name)], asked, RULES).refused[0]
            extra = check([line(name)], asked, Rules(RULES.classes, extra=True))
            assert [taken.key for taken in extra.taken] == [key]
    both = Asked([composed, decomposed], ["1", "2"], {})
    for name in (composed, decomposed):
        assert [taken.key for taken in check([line(name)], both, RULES).taken] == [name]
    assert "fits several images" in check([line("Ba\u0308r/\u00fc.png")], both, RULES).refused[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [("c/1.png", "'c/1.png' is not an image of this run (did you mean 'b/1.png'?)"),
     ("a/2.PGN", "'a/2.PGN' is not an image of this run (did you mean 'a/2.png'?)"),
     ("something else", "'something else' is not an image of this run"),
     ("known.png", "'known.png' is not an image that is asked for now; --extra takes labels that nobody asked for")],
)  # fmt: skip
def test_an_unknown_image_is_told_from_one_that_was_not_asked_for(name, said):
    asked = replace(ASKED, elsewhere={"known.png": "known.png"}.get)
    assert check([line(name)], asked, RULES).refused == [f"l.csv:2: {said}"]


def test_similar_keys_are_looked_for_only_as_often_as_a_message_shows_lines():
    refused = check([line(f"a/{number}.png") for number in range(3, 40)], ASKED, RULES).refused
    assert sum("did you mean" in line for line in refused) == 20 < len(refused)


@pytest.mark.parametrize(
    ("label", "found"),
    [("cat", "cat"), (" cat\t", "cat"), ("CAT", "cat"), ("dog", "Dog"), ("cafe\u0301", "caf\u00e9"), ("cot", None),
     ("", None)],
)  # fmt: skip
def test_a_label_is_a_class_after_trimming_normalisation_and_case(label, found):
    result = check([line("a/1.png", label)], ASKED, RULES)
    assert [taken.label for taken in result.taken] == ([] if found is None else [found])
    assert bool(result.notes) == (found is not None and found != label)
    if label == "cot":
        assert "did you mean 'cat'?" in result.refused[0]


def test_a_bad_line_leaves_the_others_as_they_are(tmp_path):
    lines = read(written(tmp_path, "l.csv", "key,label,status\na/1.png,cat,\na/2.png,,skipp\nb/1.png,Dog\n"))
    result = check(lines, ASKED, RULES)
    assert [taken.key for taken in result.taken] == ["a/1.png"]
    assert len(result.refused) == 2


def test_new_classes_come_only_where_they_are_allowed_and_in_one_spelling():
    lines = [line("a/1.png", "bird"), line("a/2.png", "Bird")]
    assert len(check(lines, ASKED, RULES).refused) == 2
    result = check(lines, ASKED, Rules(["cat"], new_classes=True))
    assert [taken.label for taken in result.taken] == ["bird", "bird"]
    assert result.notes[0].startswith("NEW CLASS 'bird', with 2 images")
    assert "It was written 'bird' (1 time), 'Bird' (1 time): the first spelling is the class" in result.notes[0]
    slip = check([line("a/1.png", "catt")], ASKED, Rules(["cat"], new_classes=True))
    assert "did you mean 'cat'?" in slip.notes[0]


def test_a_correction_of_all_images_of_a_new_class_spells_it_otherwise():
    birds = {key: (Status.LABEL, "bird") for key in ("a/1.png", "a/2.png")}
    asked = Asked(ASKED.keys, ASKED.uris, birds)
    rules = Rules(["cat", "bird"], new_classes=True, correct=True, renamable=["bird"])
    result = check([line(key, "Bird") for key in birds], asked, rules)
    assert [taken.label for taken in result.taken] == ["Bird", "Bird"]
    assert result.notes == ["the class 'bird' is now spelled 'Bird'"]
    some = check([line("a/1.png", "Bird")], asked, rules)
    assert some.taken == []
    assert any("give all images of 'bird' again to rename it" in note for note in some.notes)
    assert check([line(key, "Bird") for key in birds], asked, replace(rules, renamable=[])).taken == []


def test_of_contradicting_lines_none_is_taken_and_equal_lines_count_once():
    result = check(
        [line("a/1.png", "cat"), line("a/1.png", "Dog", at=3), line("a/2.png"), line("a/2.png")], ASKED, RULES
    )
    assert [taken.key for taken in result.taken] == ["a/2.png"]
    assert len(result.refused) == 2
    assert "contradicting" in result.refused[0]


def test_of_several_annotators_the_majority_counts_and_a_tie_is_refused():
    votes = [line("a/1.png", label, annotator=who) for label, who in (("cat", "x"), ("Dog", "y"), ("Dog", "z"))]
    assert [taken.label for taken in check(votes, ASKED, RULES).taken] == ["Dog"]
    assert check(votes[:2], ASKED, RULES).taken == []


def test_an_answer_that_is_there_stays_unless_it_is_corrected():
    asked = Asked(ASKED.keys, ASKED.uris, {"a/1.png": (Status.LABEL, "cat")})
    again = check([line("a/1.png", "cat")], asked, RULES)
    assert (again.taken, again.notes) == ([], ["l.csv:2: a/1.png has this answer already"])
    assert "--correct" in check([line("a/1.png", "Dog")], asked, RULES).refused[0]
    assert len(check([line("a/1.png", "Dog")], asked, Rules(RULES.classes, correct=True)).taken) == 1


def test_labels_nobody_asked_for_need_extra():
    asked = Asked(ASKED.keys, ASKED.uris, {}, lambda name: name if name == "z.png" else None)
    assert "--extra" in check([line("z.png")], asked, RULES).refused[0]
    assert len(check([line("z.png")], asked, Rules(RULES.classes, extra=True)).taken) == 1


def test_a_ledger_keeps_every_delivery_and_the_latest_answer_counts(tmp_path):
    ledger = Ledger(Store(str(tmp_path / "deliveries")))
    assert ledger.answers() == {}
    first = ledger.deliver([line("a/1.png"), line("a/2.png", status=Status.SKIP)], "l.csv")
    ledger.deliver([line("a/1.png", "Dog")], "m.csv", "correction")
    ledger.deliver([], "round 1", "close")
    assert ledger.answers() == {"a/1.png": (Status.LABEL, "Dog"), "a/2.png": (Status.SKIP, "")}
    assert ledger.answers([first])["a/1.png"] == (Status.LABEL, "cat")
    assert ledger.closed("round 1")
    assert not ledger.closed("round 2")
    assert [delivery.kind for delivery in ledger.read()] == ["answer", "correction", "close"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1", "dog"),
        (" 0 ", "cat"),
        ("2", None),
        ("masks/x.png", None),
        ("a.JPG", None),
        ("bird", "bird"),
        ("v1.5", "v1.5"),
    ],
)
def test_a_number_is_that_of_a_class_and_a_file_is_no_new_class(said: str, meant: str | None) -> None:
    """Also where new classes may come: the slip of a delivery must not become a class."""
    line = Delivered("file:2", "key", Status.LABEL, said)
    found = check([line], Asked(["key"], ["uri"], {}), Rules(["cat", "dog"], new_classes=True))
    assert [one.label for one in found.taken] == ([] if meant is None else [meant])
    assert len(found.refused) == (meant is None)
    numbers = check([line], Asked(["key"], ["uri"], {}), Rules(["1", "2"], new_classes=True))
    assert said.strip() not in ("1", "2") or [one.label for one in numbers.taken] == [said.strip()]
