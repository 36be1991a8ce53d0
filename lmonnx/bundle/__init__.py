"""The contract between compiler and runtime: manifest.py → fields.py → folder.py → bundle.py."""
