from .compare import compare as compare
from .compare import compare_arms as compare_arms
