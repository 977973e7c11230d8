from . import metrics as metrics
from . import reporting as reporting
from .functional.nac import nac_bound as nac_bound
from .models.encoder import NACEncoder as NACEncoder
from .transplant.transplant import transplant as transplant
from .version import __version__ as __version__
