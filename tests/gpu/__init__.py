"""What needs a real card. Run by hand, on Linux with one NVIDIA card of 16 GiB or more that nobody else uses:

    pytest -m gpu tests/gpu -s

Needs torch with CUDA, sentence-transformers and safetensors; no network and no downloaded model: the tests write a
small BERT with random weights themselves. They take some five minutes, fill the card (a program of theirs holds up to
98 % of it for a while), print what they measured, and are left out, with the reason, where there is no card.
"""
