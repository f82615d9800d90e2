"""A scikit-learn pipeline as an ONNX teacher (pip install skl2onnx onnx):
python examples/onnx_sklearn.py LABELLED teacher.onnx
It learns pixels of a folder for each class; images are [b, 3, 16, 16], 0 to 1."""

import pathlib
import sys

import cv2
import numpy as np
import onnx
import skl2onnx
from onnx import helper
from sklearn import calibration, pipeline, preprocessing, svm

SIZE, FLOAT = 16, onnx.TensorProto.FLOAT


def main(labelled: str, target: str) -> None:
    paths = sorted(pathlib.Path(labelled).glob("*/*.png"))
    images = [cv2.resize(cv2.imread(str(path)), (SIZE, SIZE))[..., ::-1] for path in paths]
    pixels = np.stack(images).transpose(0, 3, 1, 2).reshape(len(images), -1) / np.float32(255)
    machine = calibration.CalibratedClassifierCV(svm.SVC(), ensemble=False)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), machine)
    model.fit(pixels, [path.parent.name for path in paths])
    kind = skl2onnx.common.data_types.FloatTensorType([None, pixels.shape[1]])
    told = {"initial_types": [("pixels", kind)], "options": {"zipmap": False}}
    table = skl2onnx.to_onnx(model, target_opset=17, **told)
    inputs = [helper.make_tensor_value_info("images", FLOAT, ["b", 3, SIZE, SIZE])]
    flat = [helper.make_tensor_value_info("flat", FLOAT, ["b", pixels.shape[1]])]
    nodes = [helper.make_node("Flatten", ["images"], ["flat"])]
    graph, opset = helper.make_graph(nodes, "images", inputs, flat), table.opset_import
    front = helper.make_model(graph, opset_imports=opset, ir_version=table.ir_version)
    whole = onnx.compose.merge_models(front, table, [("flat", "pixels")], outputs=["probabilities"])
    whole.metadata_props.add(key="class_names", value=str(model.classes_.tolist()))
    onnx.save(whole, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
