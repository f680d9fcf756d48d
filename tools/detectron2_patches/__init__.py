"""What install_detectron2.py changes in and adds to the Detectron2 sources."""
