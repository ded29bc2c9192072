"""Problems with formats and verifiers, and the traces that models write on them.

`load_task("pocket", 500, split="test")` generates word problems, `load_task("gsm8k.jsonl")` reads GSM8K's own
files, `load_task("hellaswag.jsonl")` problems with options (ARC's and TruthfulQA's too), `load_task("stories.json")`
free prompts, which have no right answer. `load_questions` gives questions that are answered yes or no, and what a yes
says about a value. Nothing here loads torch.
"""

from mechsteer.tasks.asking import load_questions
from mechsteer.tasks.base import Item, Task, Trace, items_hash
from mechsteer.tasks.choices import option_traces
from mechsteer.tasks.dilemmas import read_dilemmas
from mechsteer.tasks.equations import equation_counts
from mechsteer.tasks.examples import few_shot, in_chat
from mechsteer.tasks.feelings import sentiment_questions
from mechsteer.tasks.gsm8k import read_solutions
from mechsteer.tasks.load import SPLITS, load_task
from mechsteer.tasks.operations import step_operations
from mechsteer.tasks.questions import Question, QuestionSet
from mechsteer.tasks.splitting import require_answers, require_disjoint
from mechsteer.tasks.statements import honest_questions, pocket_statements, read_statements
from mechsteer.tasks.stories import openings
from mechsteer.tasks.traces import read_traces, write_traces

__all__ = [
    "Item",
    "Task",
    "Trace",
    "items_hash",
    "SPLITS",
    "load_task",
    "equation_counts",
    "few_shot",
    "in_chat",
    "openings",
    "option_traces",
    "read_solutions",
    "read_traces",
    "require_answers",
    "require_disjoint",
    "step_operations",
    "write_traces",
    "Question",
    "QuestionSet",
    "load_questions",
    "read_dilemmas",
    "read_statements",
    "pocket_statements",
    "honest_questions",
    "sentiment_questions",
]
