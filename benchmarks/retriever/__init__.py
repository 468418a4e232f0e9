"""Speed and quality of the retriever, and preparing its data."""
