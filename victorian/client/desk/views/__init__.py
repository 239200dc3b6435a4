"""The desk on Streamlit: thin views over `victorian.client.desk.desk`."""
