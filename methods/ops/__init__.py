"""Operations on images and clouds that views and visualisations of several methods share; mostly NumPy."""
