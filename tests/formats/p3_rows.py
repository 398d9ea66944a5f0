"""Rows as the datasets behind the shared PromptSource templates have them, a few for each; the texts are ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def labelled(labels: Iterable[object], **fields: Any) -> list[Row]:
    """One row a label."""
    return [fields | {"label": label} for label in labels]


def spans(*answers: str) -> Row:
    """Answers as SQuAD has them."""
    return {"text": list(answers), "answer_start": [0] * len(answers)}


def options(*texts: str, digits: bool = False) -> Row:
    """Choices as ARC and its kin have them."""
    return {"text": list(texts), "label": list("12345678" if digits else "ABCDEFGH")[: len(texts)]}


PAIR = {"sentence1": "The ferry left at noon.", "sentence2": "At noon the boat departed.", "idx": 0}
NLI = {"premise": "A goat stands on the roof.", "hypothesis": "There is an animal on the roof.", "idx": 0}
REVIEW = {"text": "Two hours of rain and a talking umbrella; I left smiling."}
PASSAGE = "The old mill by the river grinds buckwheat. It was built in 1740 by two sisters."
QA = {"context": PASSAGE, "question": "When was the mill built?", "title": "Old_mill", "id": "q1"}
PLOT = {"plot": PASSAGE, "question": "Who built it?", "title": "The Mill", "plot_id": "p", "question_id": "q"}
GRAIN = options("buckwheat", "rye", "oats", "barley", "millet", "rice", "wheat", "corn")

ROWS: dict[str, list[Row]] = {
    "ag_news": labelled(range(4), text="Ferry company orders three electric boats."),
    "amazon_polarity": labelled((0, 1), title="Good kettle", content="It boils quickly and does not drip."),
    "anli": labelled(range(3), **NLI, uid="u", reason=""),
    "app_reviews": [
        {"package_name": "org.example.tide", "review": "Shows the tides well.", "date": "May 1 2020", "star": star}
        for star in range(1, 6)
    ],
    "cnn_dailymail/3.0.0": [{"article": PASSAGE, "highlights": "Two sisters built a mill .", "id": "a"}],
    "common_gen": [
        {"concepts": ["goat", "roof", "stand"], "target": "A goat stands on the roof.", "concept_set_idx": 0}
    ],
    "commonsense_qa": [
        {"question": "Where is flour made?", "choices": options("mill", "sea", "bank", "moon", "bed"), "answerKey": key}
        for key in ("A", "E")
    ],
    "cosmos_qa": labelled(
        range(4),
        id="i",
        context=PASSAGE,
        question="Who built it?",
        answer0="Sisters .",
        answer1="A king .",
        answer2="None of the above choices .",
        answer3="Monks .",
    ),
    "dbpedia_14": labelled(range(14), title="Old Mill", content=" The Old Mill is a water mill."),
    "dream": [
        {
            "id": "d",
            "dialogue_id": "d",
            "dialogue": ["M: Is the mill open?", "W: Not today.", "M: A pity."],
            "question": "Is the mill open?",
            "choice": ["No.", "Yes.", "It burnt down."],
            "answer": "No.",
        }
    ],
    "gigaword": [
        {"document": "the ferry company said monday it ordered boats .", "summary": "ferry company orders boats"}
    ],
    "glue/cola": labelled((0, 1), sentence="The goat the roof stands on.", idx=0),
    "glue/qnli": labelled((0, 1), question="When was it built?", sentence="It was built in 1740.", idx=0),
    "glue/qqp": labelled((0, 1), question1="How do mills work?", question2="How does a mill work?", idx=0),
    "glue/sst2": labelled((0, 1), sentence="a warm , funny film ", idx=0),
    "glue/stsb": labelled((0.0, 2.75, 3.8, 5.0), **PAIR),
    "hellaswag": [
        {
            "ind": 1,
            "activity_label": "Baking bread",
            "ctx_a": "A woman kneads dough.",
            "ctx_b": "she",
            "ctx": "A woman kneads dough. she",
            "label": label,
            "source_id": "s",
            "split": "train",
            "endings": ["lets it rise.", "throws it away.", "paints it blue.", "plays the drums."],
        }
        for label in "0123"
    ],
    "imdb": labelled((0, 1), **REVIEW),
    "kilt_tasks/hotpotqa": [
        {
            "id": "k",
            "input": "Who built the mill?",
            "output": [{"answer": "two sisters", "meta": {"score": 0}, "provenance": []}],
            "meta": {},
        }
    ],
    "multi_news": [{"document": f"{PASSAGE}|||||Another report.|||||", "summary": "– Two sisters built a mill."}],
    "openbookqa/main": [
        {
            "id": "o",
            "question_stem": "Flour is ground in a",
            "choices": options("mill", "boat", "bed", "bank"),
            "answerKey": key,
        }
        for key in "ABCD"
    ],
    "piqa": labelled((0, 1), goal="Grind grain", sol1="Use a mill.", sol2="Use a pillow."),
    "qasc": [
        {
            "id": "q",
            "question": "What do mills grind?",
            "answerKey": key,
            "choices": GRAIN,
            "fact1": "Mills grind grain.",
            "fact2": "buckwheat is ground.",
            "combinedfact": "mills grind buckwheat.",
            "formatted_question": "",
        }
        for key in "AH"
    ],
    "quail": [
        {
            "id": "q",
            "context_id": "c",
            "question_id": "1",
            "domain": "news",
            "metadata": {"author": "", "title": "", "url": ""},
            "context": PASSAGE,
            "question": "Who built it?",
            "question_type": "Factual",
            "answers": ["Sisters.", "A king.", "Monks.", "not enough information"],
            "correct_answer_id": n,
        }
        for n in range(4)
    ],
    "quarel": [
        {
            "id": "q",
            "answer_index": n,
            "logical_forms": [],
            "logical_form_pretty": "",
            "question": "Who runs faster?",
            "world_literals": {"world1": ["goat"], "world2": ["snail"]},
        }
        for n in (0, 1)
    ],
    "quartz": [
        {
            "id": "q",
            "question": question,
            "choices": options("faster", "slower"),
            "answerKey": "B",
            "para": PASSAGE,
            "para_id": "p",
            "para_anno": {},
            "question_anno": {},
        }
        for question in ("With less water the mill turns _____.", "How does the mill turn with less water?")
    ],
    "quoref": [QA | {"url": "", "answers": spans("1740", "the year 1740")}],
    "ropes": [
        {
            "id": "r",
            "background": PASSAGE,
            "situation": "Two mills stand side by side.",
            "question": "Which?",
            "answers": spans("left"),
        }
    ],
    "rotten_tomatoes": labelled((0, 1), **REVIEW),
    "samsum": [{"id": "s", "dialogue": "Ann: Mill?\r\nBo: Closed.", "summary": "The mill is closed."}],
    "sciq": [
        {
            "question": "What do mills grind?",
            "distractor1": "sand",
            "distractor2": "snow",
            "distractor3": "steam",
            "correct_answer": "grain",
            "support": PASSAGE,
        }
    ],
    "social_i_qa": [
        {
            "context": "Ann baked bread.",
            "question": "What will Ann do next?",
            "answerA": "eat it",
            "answerB": "fly",
            "answerC": "sue",
            "label": label,
        }
        for label in "123"
    ],
    "squad": [QA | {"answers": spans("1740")}],
    "squad_v2": [QA | {"answers": spans("1740", "in 1740")}, QA | {"answers": spans()}],
    "super_glue/axb": labelled((0, 1), **PAIR),
    "super_glue/axg": labelled((0, 1), **NLI),
    "super_glue/boolq": labelled((0, 1), question="was the mill built in 1740", passage=PASSAGE, idx=0),
    "super_glue/cb": labelled(range(3), **NLI),
    "super_glue/copa": [
        {
            "premise": "The mill stopped.",
            "choice1": "The river froze.",
            "choice2": "It rained.",
            "question": asked,
            "idx": 0,
        }
        | {"label": label}
        for asked in ("cause", "effect")
        for label in (0, 1)
    ],
    "super_glue/multirc": labelled((0, 1), paragraph=PASSAGE, question="Who built it?", answer="Two sisters", idx={}),
    "super_glue/record": [
        {
            "passage": f"{PASSAGE}\n@highlight\nSisters built it\n@highlight\nIt still works",
            "query": "@placeholder has a river",
            "entities": ["Mill", "Town"],
            "answers": ["Mill"],
            "idx": {},
        }
    ],
    "super_glue/rte": labelled((0, 1), **NLI),
    "super_glue/wic": labelled(
        (0, 1), word="mill", sentence1="A mill grinds.", sentence2="We mill about.", start1=2, start2=3, end1=6, end2=7
    ),
    "super_glue/wsc.fixed": [
        {
            "text": "Ann thanked Bo because he helped her",
            "span1_index": 2,
            "span2_index": 4,
            "span1_text": "Bo",
            "span2_text": pronoun,
            "label": label,
            "idx": 0,
        }
        for pronoun in ("he", "they")
        for label in (0, 1)
    ],
    "trec": [
        {"text": "Who built the mill ?", "coarse_label": coarse, "fine_label": fine}
        for coarse, fine in ((0, 0), (1, 2), (2, 24), (3, 28), (4, 32), (5, 37), (5, 49))
    ],
    "wiki_bio": [
        {
            "input_text": {
                "context": "ann miller\n",
                "table": {
                    "column_header": ["name", "article_title", "birth_date"],
                    "row_number": [1, 1, 1],
                    "content": ["ann miller", "ann miller\n", "1 may 1740"],
                },
            },
            "target_text": "ann miller -lrb- born 1 may 1740 -rrb- was a miller .\n",
        }
    ],
    "wiki_hop/original": [
        {
            "id": "w",
            "question": "country old mill by the river",
            "answer": "norway",
            "candidates": ["norway", "peru"],
            "supports": [PASSAGE, "Norway has many mills."],
            "annotations": [],
        }
    ],
    "wiki_qa": labelled(
        (0, 1),
        question_id="Q1",
        question="who built the mill",
        document_title="Old Mill",
        answer="Two sisters built it.",
    ),
    "wiqa": [
        {
            "question_stem": "suppose more rain falls happens, how will it affect MORE FLOUR.",
            "answer_label": label,
            "question_para_step": ["Rain falls", "The wheel turns", "Grain is ground", *last],
            "answer_label_as_choice": key,
            "choices": options("more", "less", "no effect"),
            "metadata_question_id": "m",
            "metadata_graph_id": "1",
            "metadata_para_id": "2",
            "metadata_question_type": kind,
            "metadata_path_len": 2,
        }
        for label, key, kind, last in (
            ("more", "A", "INPARA_EFFECT", []),
            ("no_effect", "C", "OUTOFPARA_DISTRACTOR", [""]),
            ("less", "B", "EXOGENOUS_EFFECT", []),
        )
    ],
    "xsum": [{"document": PASSAGE, "summary": "A mill is old.", "id": "x"}],
    "yelp_review_full": labelled(range(5), **REVIEW),
}
for name in ("dbert", "dbidaf", "droberta"):
    ROWS[f"adversarial_qa/{name}"] = [
        QA | {"answers": spans("1740"), "metadata": {"split": "train", "model_in_the_loop": ""}}
    ]
for name in ("ParaphraseRC", "SelfRC"):
    ROWS[f"duorc/{name}"] = [
        PLOT | {"answers": ["two sisters"], "no_answer": False},
        PLOT | {"answers": [], "no_answer": True},
    ]
for name in ("glue/ax", "glue/mnli", "xnli/en"):
    ROWS[name] = labelled(range(3), **NLI)
for name in ("glue/mrpc", "glue/rte", "glue/wnli", "paws/labeled_final", "paws-x/en"):
    ROWS[name] = labelled((0, 1), **PAIR)
for name in ("winogrande_debiased", "winogrande_xl"):
    ROWS[f"winogrande/{name}"] = [
        {
            "sentence": "The goat fits the shed as _ is small.",
            "option1": "the goat",
            "option2": "the shed",
            "answer": answer,
        }
        for answer in "12"
    ]
