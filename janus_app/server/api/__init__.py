"""The API for other programs, beside the page: /v1 in OpenAI's shape, /sdapi/v1 in that of AUTOMATIC1111."""
