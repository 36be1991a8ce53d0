"""Bundle → answers: tokenizer.py → batch.py → session.py → pipelines/, opened by loading.py."""
