// What the bindings of TensorRT are linked to, so that they can be loaded where its libraries are not.
#define CALL(name) extern "C" void *name() { return nullptr; }

CALL(createInferBuilder_INTERNAL)
CALL(createInferRefitter_INTERNAL)
CALL(createInferRuntime_INTERNAL)
CALL(createNvOnnxParser_INTERNAL)
CALL(createNvOnnxParserRefitter_INTERNAL)
CALL(getBuilderPluginRegistry)
CALL(getNvOnnxParserVersion)
CALL(getPluginRegistry)
CALL(initLibNvInferPlugins)
