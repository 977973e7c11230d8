from .paired_comparison import compare as compare
from .paired_comparison import compare_arms as compare_arms
