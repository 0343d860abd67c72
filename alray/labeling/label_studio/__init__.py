"""The oracle `label_studio`: people label in Label Studio.

`pip install 'alray[label-studio]'`, set LABEL_STUDIO_API_KEY to a token of a user (a personal access token, or a legacy
token where the server allows these), and give `--labels.oracle label_studio --labels.url http://...`. The token is read
from the environment alone and is in no file, message or configuration. A run makes a project with its own name and
pushes each batch to it as tasks that show which class the model predicts. People choose a class (in segmentation they
draw a mask), skip, or choose "unusable". The run takes answers as they come: it polls, or it exits with code 75 and
reads them when it is started again.

A browser finds images of s3:// by presigned URLs, which are renewed after half of their seven days; images below
`labels.local_root` by local-files serving, for which the server needs LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and
the same folder as LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; all others are in the tasks, as JPEG of at most 1024 pixels
(for masks, of all pixels), which suits some thousand images. With `labels.images uri` a task has the URI of the
catalog, and a cloud storage that somebody added to the project in Label Studio opens it (gs://, azure, or s3:// without
keys on this machine).

A project of your own (`labels.project`) needs an Image with the value $image and Choices with the classes of the run,
or, for masks, BrushLabels or PolygonLabels with them; choices named "unusable", in a control of this name, and a
TextArea named "new_class" are understood.

Pixels of a mask that nobody drew on have the class `background`, or are void if the run has no class of this name. An
image without any region has no answer: if all of it is background, draw a polygon of this class around it.

`oracle` pushes each batch and reads the annotations, `server` talks to the server, `interface` makes and reads labeling
interfaces, `images` tells a browser where an image is, `agreement` settles several annotators, and `regions` turns
brushes and polygons into masks.
"""
