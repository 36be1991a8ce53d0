"""`python -m lmonnx` is `lmonnx`."""

from lmonnx.cli import main

if __name__ == "__main__":
    main()
