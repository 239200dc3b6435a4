"""The writing desk: a manuscript that a writer and a model write together.

Texts (`manuscript`, `passage`, `history`, `sentences`, `prompt`, `presets`, `session`, `export`) know no page and no
network; `writing` and `desk` talk to the service; what stands under `views` is Streamlit's.
"""
