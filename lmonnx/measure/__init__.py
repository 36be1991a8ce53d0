"""What a bundle is worth: accuracy, parity, speed, contents, and the host it runs on."""
