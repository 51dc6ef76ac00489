"""Pages that show results beside their source: `srgan-edge compare ... -o page.html`."""
