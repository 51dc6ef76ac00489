"""Export checkpoints to ONNX, TensorRT engines and other forms. Needs `srgan-edge[export]`."""
