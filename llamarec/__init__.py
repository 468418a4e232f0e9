"""llamarec: fine-tune Llama with LoRA to rank recommendations, and resume it from anywhere.

    raw files -> interactions -> user histories -> candidates -> prompts -> trained adapter -> scores -> tables

vocabulary, errors, hardware, files, assets   what every stage shares
checkpoints                  saving, verifying, resuming, for any Hugging Face Trainer; imports only errors
data                         raw files -> interactions -> histories: one file per source, one registry
evaluation                   ranks -> metrics, intervals, tables; knows no model
retriever                    histories -> top-k candidates per user (LRURec)
ranker                       candidates -> prompts -> a LoRA adapter that orders them by letter
cli                          one file per verb of the `llamarec` command

Imports point upwards in this list only; tests/contracts/test_import_direction.py keeps it so.
"""

__version__ = "0.1.0"
