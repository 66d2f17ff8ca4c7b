"""A folder without ``pages/`` beside the script: Streamlit would take each file there for a page."""
