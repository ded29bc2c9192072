"""What `mechsteer COMMAND --help` says of the commands that read their words themselves."""

SUITE_HELP = """  models=[...]      bundled names, folders, hub names; by default seven from Pythia-160M to Qwen3-1.7B
  tasks=[...]       data files; or by name with keys of their own: tasks={gsm8k:{data:gsm8k.jsonl,few_shot:8}}
  out=runs/suite    suite.html, .md, .csv, .json, and a folder per cell with its own report
  key=value         keys of `mechsteer study --help`, of every cell; preset=suite trains five seeds each
  config=FILE       all of these from a YAML file

Started again it goes on where it was. A cell that cannot run says why, and the status is 1."""

MIX_HELP = """  FILE                    a steering file with atoms (a dictionary); alone: its atoms, gains and presets
  text="..."              continue it as the model does, as trained, and mixed, and write a page
  gains=[1,0,...]         one gain per atom; or single ones, gains='{3:0,5:2}': the others keep theirs
  preset=NAME             gains kept in the file, or trained (all 1), off (all 0)
  save_preset=NAME        keep the gains in FILE under a name
  out=NEW.safetensors     the steering with these gains as a file of its own
  model=pocket            a bundled name, a Hugging Face folder, a hub name: the model that FILE was made for
  max_new_tokens=40       how much is written
  page=mix.html           the page: texts side by side, weights of every token; it works offline

A gain of 1 leaves an atom as it was trained, 0 silences it."""

RECORDS_HELP = """  list [LOG|FOLDER ...]        the runs of logs (records.jsonl), by default of all below runs/
  show RUN [LOG|FOLDER ...]    settings, figures and evaluations of one, by the beginning of its id
  import LOG|FOLDER ...        logs into a database; what is there already is left as it is
  database=embedded            of list and show: ask a database; of import: which (embedded, or postgresql://user@host/name)
  folder=FOLDER                of the embedded database

A run writes its log always, and into a database with records.database=embedded."""

PROMPTS_HELP = """  SOURCE                  a .jsonl, .json, .csv, .txt, .parquet or .arrow file, or a folder of a Hugging Face dataset
  out=FILE.jsonl          the prompts chosen, for data=FILE.jsonl
  text=text               the column of the prompts (conversations.0.value: within one); group=, label=: others to keep
  min_tokens= max_tokens= how long they are, as model=pocket reads them
  n=100 seed=0            so many, drawn
  like=FILE|TEXT          the n most like these instead, by the model's mean residuals, in a database of embeddings
  endpoint=KIND,MODEL,URL by an endpoint's embeddings: openai,NAME,http://localhost:8000/v1 or ollama,NAME,http://localhost:11434
  database=embedded       or postgresql://user@host/name (with pgvector);  folder=, index=: where, and by what name

Repeats go first, then what is too short or long."""

LAB_HELP = """  model=voices            a bundled name, a Hugging Face folder, a hub name
  port=7860               where it listens, on this machine (127.0.0.1) alone
  folder=runs/lab         vectors, checks, your own concepts and exports

Needs the extra: pip install 'mechsteer[lab]'. Nothing is sent anywhere."""

CERTIFY_HELP = """  FILE                    a steering file
  model=pocket            a bundled name, a Hugging Face folder, a hub name: the model that FILE was made for
  text="..."              one prompt; or prompts=FILE of them; by default four short ones
  n_tokens=32             how many follow each prompt, greedily
  tolerance=0.001         the largest difference of a logit that is none
  coeff=1.0               of the whole steering; by default the file's
  gguf=MODEL.gguf         the same model for llama.cpp
  out=certificate         a new folder: certificate.html, .md, .json

Engines: the twin that generation runs on, HookedTransformer, transformers with apply.py, transformers with the steering
folded in, PEFT, llama.cpp. The status is 1 where one differs or none could be compared; what is not here is no pass."""

CONFIGURE_HELP = """  model=NAME     a bundled name, a Hugging Face folder, a hub name; its weights are not read
  memory=GIB     of the machine that is to run it; by default what is free here
  device=cuda    whose memory that is
  out=FILE.yaml  for `mechsteer study config=FILE.yaml`; by default it is printed"""
