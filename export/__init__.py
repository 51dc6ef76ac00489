"""Export: from a checkpoint to the deployment ONNX. Needs `srgan-edge[export]`."""
