"""What all pages that normlab writes look like: how numbers are written, figures drawn, and the style sheet."""
