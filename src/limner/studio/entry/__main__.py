"""The script that Streamlit runs at every drawing."""

from limner.studio.app import main

main()
