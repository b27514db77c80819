"""How a model is judged, on target files and on the documents it was trained on."""
