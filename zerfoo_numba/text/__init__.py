"""The parts of tokenizers and chat templates; `tokenizer` and `chat` are what others use."""
