"""Causal language models as readers: windows of tokens in, nats (-ln p) out.

Selectors measure documents with a model that the user names; trainers evaluate the model they
train. Both cut token sequences into windows, batch them and sum losses with this package.

::

    token ids of a text
      └─ text_windows     (tokens,) -> windows                    windows.py
           └─ batch_windows    windows of about equal length      windows.py
                └─ pad_windows      -> WindowBatch, padded        windows.py
                     └─ window_nats      model -> nats a window   windows.py
                          └─ text_nats        -> nats a text      windows.py

    TokenTree          a text and its branches, read once         trees.py
      └─ tree_nats       trees -> nats of their parts             trees.py

    LoadedModel        a transformers model and its tokenizer     causal.py
    check_model        no code of a model's directory runs        model_directory.py
    settings_problem   nor names kernels or files elsewhere       model_settings.py
      ├─ read_header   safetensors hold what they claim           weight_files.py
      └─ ModelFiles    a model is built as large as its files     bounded_building.py
    one_thread         one thread in PyTorch and BLAS             devices.py
"""
