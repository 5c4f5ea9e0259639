"""The first look at data sets: what is wrong or suspicious in them, measured from every row."""
