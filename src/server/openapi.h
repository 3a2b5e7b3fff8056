// An OpenAPI 3.1 description of the server, made of the tables of routes and fields, so that it cannot lag behind.
#pragma once

#include "core/json.h"

namespace tessera::server {

OrderedJson openapi_description();

}  // namespace tessera::server
