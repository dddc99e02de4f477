"""Ship: save and load without pickle, export to ONNX, measure. Each part is imported only when it is used."""
